"""Key use by other software: traffic keys, who holds which association, and what is said of it.

Pure: files and commands are aaa.serve's (key_outlet).
"""
