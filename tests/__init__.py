"""The tests of sam_age, laid out as src/sam_age is."""
