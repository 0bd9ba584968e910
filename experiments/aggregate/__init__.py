"""From records to what a reader looks at.

    load      results/runs/*.json -> records; one that cannot be read is named and skipped
    protocol  a cell of the paper, at a scale -> its configuration and its key
    fill      cells and records -> which runs fill which cell, and the learning rate that was selected
    measures, statistics          a record -> a number; numbers over seeds -> mean, deviation, interval
    tables    a table of the paper -> entries -> a pandas frame; markdown, latex: the same, written out
    figures   curves, spectra, learning rates, cost -> SVG and PNG
    claims, verdicts              each claim of the paper and its rule; the numbers that decide it
    findings  the page that says so
    report    one HTML page with all of it
    planning, launch              which runs are missing, what they would cost; starting them
    output    files that appear whole, and the check that committed ones are fresh

Nothing here knows the time or the machine: the same records give the same bytes.
"""
