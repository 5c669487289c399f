"""Programs that are measured, or stand in for what is not: each prints `ready PORT` and serves until SIGTERM."""
