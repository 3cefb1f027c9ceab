"""The command line beside Luigi's."""
