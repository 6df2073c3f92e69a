"""From a prepared set to a member: samples, the loop, schedules, checks, tracking."""
