"""One model of several sites whose logs never meet."""
