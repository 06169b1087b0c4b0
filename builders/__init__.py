"""Batch jobs that turn sent mail into published models.

The way of a message, one module each::

    read/       files and bytes -> Message            (what arrived)
    identity    Message -> who really wrote it        (whose words)
    routing     Message -> the user it counts for
    clean/      body -> own words only
    language    own words -> the wanted languages
    prepare     Message -> token-id sequences         (the pure function over one message)
    build       one user's sequences -> blob          (the pure function over one user)
    run         sources -> store, with processes, progress and a report

``vocabulary`` builds word vocabularies from the same messages. Builders import ``perslm``; nothing
in ``perslm`` but its command line imports builders.
"""
