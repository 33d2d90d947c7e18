-- The highest messages of each stream that its consumer took in, by which a service knows
-- whether the stream still is the one it has consumed so far.
create table mesh.reached (
    stream text not null,
    stream_seq bigint not null,
    message_id uuid not null,
    primary key (stream, stream_seq)
);
