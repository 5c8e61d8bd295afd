"""A run from plan to report; it loops over the stages that are asked for."""
