"""Whether a store keeps the one promise that commits rest on, found out by trying.

Some servers that speak S3 take a conditional put and ignore its condition, such as ``rclone serve s3``: every
writer wins then, and the last one's object stays.
"""

from concurrent.futures import ThreadPoolExecutor

from sam_engine.errors import ConfigError
from sam_engine.storage.left_behind import temporary_name
from sam_engine.storage.store import Store

WRITERS = 8
RACES = 3


def refuse_inexclusive(store: Store) -> None:
    """Check that one writer of a name wins, one after another and all at once; leaves nothing behind.

    What a killed one leaves is deleted by `Store.delete_own_temporaries`.

    Raises:
        ConfigError: Several did, or another's object is there than the winner's: no dataset is safe there.
        StorageError: It cannot be written.
    """
    for race in range(1 + RACES):
        name = temporary_name("probe")
        texts = [f"{name} by writer {number}".encode() for number in range(WRITERS if race else 2)]
        try:
            with ThreadPoolExecutor(len(texts) if race else 1) as pool:
                won = list(pool.map(lambda text, name=name: store.put_exclusive(name, text), texts))
            winners = [text for text, is_winner in zip(texts, won, strict=True) if is_winner]
            there = store.read(name)
        finally:
            store.delete_temporary(name)
        if winners != [there]:
            raise ConfigError(
                f"{store.describe()}: {len(winners)} of {len(texts)} writers created one object, so that one "
                "run may overwrite what another has finished: this server does not keep conditional puts "
                "(If-None-Match); choose another store"
            )
