"""What a command starts: the embedded database, Dagster's instance, runs, web server and daemon, the demo.

What does not belong here: definitions (``defs``), arguments and output of commands (``cli``).
"""
