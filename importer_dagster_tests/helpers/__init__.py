"""What tests of several rooms share: an inbox, a project with its own instance, the command, load generators."""
