"""The ground: errors, files, the configuration's schema and its composition, processes, the machine."""
