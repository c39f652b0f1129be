"""The doctor: what is wrong with the machine, the files and the settings, or soon will be."""
