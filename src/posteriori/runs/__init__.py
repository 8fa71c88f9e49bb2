"""What is written while work goes on, so that a process may end at any moment: whole files
(`files`), one writer per folder (`lock`), and finished pieces of work (`journal`, to read first).

May import errors, types and nothing above them.
"""
