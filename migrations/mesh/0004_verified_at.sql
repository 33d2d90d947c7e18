-- When the stream stored the message up to which outbox and stream agree. A lost message that was
-- published again may be at its old sequence, and only this distinguishes the two.
alter table mesh.verified add column stored_at timestamptz;
