"""A few labelled clips of one camera -> members and a decision for it (docs/adapt.md).

Everything but ``adapt_set`` is a function of what it is given, and works without the verb:

    start = load_start("minifasnet")                          the networks, their calibration, the decision
    clips = read_clips("mine", start)                         labelled clips, cut as prediction cuts them
    seen = see_clips(start, clips, plan)                      one forward pass through what never learns
    fitted = fit_candidate("fine_tuning", start, seen, rows, plan)      one candidate on some of the clips
    logits = score_candidate(fitted, start, seen, other_rows)           clips x members x (as they are, relit)
    found = choose(start, seen, plan)                         all candidates, nested; found.kind is the chosen one
"""
