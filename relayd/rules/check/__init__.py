"""What is wrong with a rule set before any mail comes: circles, dead ends, failed tests."""
