"""Why nothing but the corrected slices changed. Needs no torch: panels use it too."""

NOTHING_CORRECTED = "the slices hold no correction where the model looks"
NO_GAIN = "no gain is expected on the other slices"
HIDDEN_WORSE = "a corrected slice that was hidden for a test was found worse than before"
UNPROVEN = "corrections were learnt on another model, and no gain was shown on corrected slices that lie apart"
NOTHING_SAID = "what was corrected says nothing of the other slices"
