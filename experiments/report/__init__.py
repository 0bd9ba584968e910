"""From filled cells to what a reader looks at: tables, figures, findings, the page.

Nothing here knows the time or the machine: the same records give the same bytes.
"""
