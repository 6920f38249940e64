"""Under which heading of a command's help an option stands: one table, so that it is the same in every command."""

LEAST_OPTIONS = 8
"""A command with fewer options of its own shows them in one list."""

INPUT, STAIN, RESULT = "What is read", "How it is made", "What is written"
MACHINE, SETTINGS, TELLING = "What it runs on", "Settings", "What is told"

_OPTIONS: dict[str, str] = {
    INPUT: """mpp region roi roi_class reader series slide slides cells cells_mpp without recursive data layout split
        val_share split_seed limit pictures results reference he_mpp ihc_mpp transform patient name part grid board rows condition entry chances trust_maps""",
    STAIN: """marker markers weights norm direction probability all_tiles any_stain strict precision sets size patch_mpp patch_size
        tissue seed visibility contrast pairing version patches points licence training_data prompt tile quality subsampling lossless""",
    RESULT: """form url output formats ngff resume overwrite read view qupath only static train val he_only trust trust_features
        trust_jitter""",
    MACHINE: "device batch_size workers scheduler threads nets port host no_open",
    SETTINGS: "config overrides plan_only tiny listed help_options",
}

PANELS: dict[str, str] = {name: panel for panel, names in _OPTIONS.items() for name in names.split()}
"""The parameter of an option, as the functions of `cli` name it, to its heading."""
