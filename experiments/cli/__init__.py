"""Between the command line and a run: what may be asked, how it is answered, what is printed at the end."""
