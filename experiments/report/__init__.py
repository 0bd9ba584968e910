"""Tables, figures, findings and the HTML page, from filled cells.

Nothing here depends on the time or the machine: the same records give the same bytes.
"""
