"""The command line. Help and listings answer without importing torch.

Read `main.py` first: `commands/` has one file for each verb, `console/` what they print with,
`files/` what they leave behind. It imports every other package.
"""
