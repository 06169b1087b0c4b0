"""What personalization is worth: train on a person's past mail, test on what they wrote after it.

``perslm evaluate`` runs this. ``mail`` reads the sources into letters of known time, ``targets``
asks the global LM for the log-probability of every word (slow, kept on disk), ``measure`` compares
the global LM with and without a person's model on mail that neither was made from, ``typing`` does
so for suggestions, ``summary`` makes figures for all people of it, ``page`` a report to read.
``run`` is the whole, a person at a time, and goes on where it stopped.

Nothing that is written here holds a word of anybody's mail: only numbers, and people's ids.
"""
