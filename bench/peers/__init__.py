"""The programs that kaoken is timed against, a module each: `prepare(workload, threads)`."""
