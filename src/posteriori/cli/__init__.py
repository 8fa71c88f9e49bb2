"""The command line. Help and listings answer without importing torch.

Read `main.py` first: `commands/` has one file for each verb, `console/` what they print with,
`files/` what they leave behind. It imports every other package.
"""

from posteriori.cli.started_as_module import leave_out_current_directory

# Before anything that is installed is imported.
leave_out_current_directory()
