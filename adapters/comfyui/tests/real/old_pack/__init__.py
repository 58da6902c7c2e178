"""A pack with one of the old ids: what a user has who did not remove the old pack."""


class QuadMasker:
    """Nothing but an id."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "old"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, object]]:
        return {"required": {}}

    def run(self) -> tuple[()]:
        return ()


NODE_CLASS_MAPPINGS = {"DM_QuadMasker": QuadMasker}
