"""The sections of the report, one question a module. Each takes the `Findings` and returns a `document.Section`."""
