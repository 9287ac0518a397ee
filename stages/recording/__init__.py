"""Recordings: written so that they survive a crash, read with numpy alone.

Writing (`writing.py`), one thread a writer; what `append` gave a number for is in the file:

    log = create_log(root, Manifest("log", session_id, ...), LogOptions(...))
    log.append(Logits(Stamp(epoch, frame_id, captured_ns), ids, logits, window).entry("float16"))
    log.drop("ring full", stamp)   # what was lost before it came here
    log.poll()                     # once a second
    log.close()                    # status: offered = written + dropped

    npy = create_npy(root, Manifest("npy", session_id, ...))
    npy.append(VideoLogits(stamp, ids, logits))

Reading (`reading.py`, `video_logits.py` for what needs torch):

    with open_recording(folder) as recording:
        for epoch, frame_id in recording.frames():
            recording.logits_at(frame_id, epoch).values  # log: low resolution, float32 (n, h, w)
            video_logits_at(recording, frame_id, epoch).values  # both: float32 (n, 1, H, W)
        for record in recording.records("packet", "prompt"):  # log
            Packet.of(record).message
"""
