"""How it is applied: plan, transaction, journal, rollback."""
