"""The options of each verb: a module a verb, whose ``app`` holds them."""
