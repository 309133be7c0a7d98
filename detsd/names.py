"""What a learnt word may be called. This file knows the names that mean something else to files."""

EARLIER_FILE = "learned_embeddings_dict.pt"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # which lies beside concepts, and is none
LONGEST_NAME = 200  # bytes: what a disk takes, with an ending

# What tools call a tensor that has no name of its own.
NAMELESS = ("", "*", "emb_params", "emp_params", "clip_l", "clip_g")
OF_OUTPUTS = "_out"  # OneTrainer's vectors that are added behind the text encoder
NAMELESS_KEYS = frozenset(f"{key}{end}" for key in NAMELESS[1:] for end in ("", OF_OUTPUTS))
BUNDLE = "bundle_emb."  # before the words in an adapter's file

_OF_FILES = {name.partition(".")[0] for name in (EARLIER_FILE, ADAPTER_FILE)}
_OF_TENSORS = {*NAMELESS_KEYS, "text_encoders_0", "text_encoders_1", "__metadata__"}


def why_not(name: object) -> str:
    """Return why no word can be called so; nothing where one can."""
    if not isinstance(name, str) or not name.strip():
        return "a word is wanted"
    if hidden := [letter for letter in name if not letter.isprintable()]:
        return (
            f"a word in a line is wanted, without letters that do not show (U+{ord(hidden[0]):04X})"
        )
    if {"/", "\\"} & set(name) or name.startswith(".") or len(name.encode()) > LONGEST_NAME:
        return f"it names its file: no slash, no dot in front, {LONGEST_NAME} bytes at most"
    # Some disks ignore the case of names.
    if name in _OF_TENSORS or name.startswith(BUNDLE) or name.casefold() in _OF_FILES:
        return "in files and as their names it stands for something else"
    return ""
