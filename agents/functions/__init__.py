"""What the jobs compute: pure functions of records and state, with no framework, loop or driver in sight."""
