"""The engine that applies a series: plan, transaction, journal, rollback."""
