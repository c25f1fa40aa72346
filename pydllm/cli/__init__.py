"""The command line. Importing it is cheap: commands import what they need when they run."""
