"""Pages for people: the report and the page about a data set."""
