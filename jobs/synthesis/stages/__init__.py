"""The rule-based synthesis stages: plain functions from drafts to drafts, which ``pipeline/stages.py`` calls."""
