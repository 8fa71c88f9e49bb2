"""The command line: one file a verb. Help and listings answer without importing torch."""
