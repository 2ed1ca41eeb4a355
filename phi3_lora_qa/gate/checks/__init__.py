"""The checks, one module for each stage. Each gives ``checks()``: what the stage consists of."""
