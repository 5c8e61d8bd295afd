"""How units are done, whatever a stage does with them: tried again, past workers that die, under a progress line."""
