"""The fact tables that come with lakejobs, a module each."""
