"""Provisional blocks as messages: whole snapshots, or the changes since the one sent before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm_proto.v1 import generation_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydllm.outputs import BlockSnapshot
    from pydllm.server.convert import StreamOptions


class Renderer:
    """Turns the snapshots of one stream into messages; remembers what each candidate's reader has seen."""

    def __init__(self, options: StreamOptions, *, mask_token_id: int, decode: Callable[[list[int]], str]) -> None:
        self._options = options
        self._mask_token_id = mask_token_id
        self._decode = decode
        self._seen: dict[int, BlockSnapshot] = {}

    def message(self, snapshot: BlockSnapshot) -> pb.StreamGenerateResponse | None:
        """The message for a snapshot; None when an EDITS reader has seen all of it."""
        before = self._seen.get(snapshot.index)
        self._seen[snapshot.index] = snapshot
        out = pb.StreamGenerateResponse(candidate_index=snapshot.index)
        edits = self._options.mode == pb.STREAM_MODE_EDITS
        if not edits or before is None or not _same_block(before, snapshot):
            out.block_snapshot.CopyFrom(self._snapshot(snapshot))
            return out
        changes = list(changed(before, snapshot))
        if not changes:
            return None
        out.block_edits.CopyFrom(pb.BlockEdits(block_index=snapshot.block_index, step=snapshot.step, edits=changes))
        return out

    def _snapshot(self, snapshot: BlockSnapshot) -> pb.BlockSnapshot:
        return pb.BlockSnapshot(
            block_index=snapshot.block_index,
            step=snapshot.step,
            token_offset=snapshot.token_offset,
            confidences=snapshot.confidences,
            token_ids=[self._mask_token_id if token is None else token for token in snapshot.token_ids],
            text=self._text(snapshot.token_ids) if self._options.snapshot_text else "",
        )

    def _text(self, token_ids: list[int | None]) -> str:
        """Runs of known tokens are decoded together, each masked position is mask_text."""
        parts: list[str] = []
        run: list[int] = []
        for token in [*token_ids, None]:
            if token is not None:
                run.append(token)
                continue
            if run:
                parts.append(self._decode(run))
                run = []
            parts.append(self._options.mask_text)
        return "".join(parts[:-1])


def _same_block(before: BlockSnapshot, after: BlockSnapshot) -> bool:
    """Whether the positions match one to one: the last state of a request is cut to what is final."""
    return before.block_index == after.block_index and len(before.token_ids) == len(after.token_ids)


def changed(before: BlockSnapshot, after: BlockSnapshot) -> Iterator[pb.BlockEdits.Edit]:
    """Positions of one block that differ, in order."""
    pairs = zip(before.token_ids, after.token_ids, after.confidences, strict=True)
    for i, (old, new, confidence) in enumerate(pairs):
        if old != new:
            yield _edit(after.token_offset + i, old, new, confidence)


def _edit(position: int, old: int | None, new: int | None, confidence: float) -> pb.BlockEdits.Edit:
    if new is None:
        return pb.BlockEdits.Edit(position=position, kind=pb.EDIT_KIND_REMASK)
    kind = pb.EDIT_KIND_COMMIT if old is None else pb.EDIT_KIND_REPLACE
    return pb.BlockEdits.Edit(position=position, token_id=new, kind=kind, confidence=confidence)
