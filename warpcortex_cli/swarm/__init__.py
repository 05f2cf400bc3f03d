"""Any number of Streams over one River, from a file of tasks to a file of thoughts."""
