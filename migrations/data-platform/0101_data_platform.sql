-- How far the export has come, and what is in its way.

-- Facts of each stream that the targets have taken; the position itself is in mesh.positions.
create table exported (
    stream text primary key,
    facts bigint not null,
    last_seq bigint not null
);

-- One row. The trouble is there while a batch is tried again and again.
create table export (
    only_row boolean primary key default true check (only_row),
    watermark timestamptz,
    trouble text,
    trouble_since timestamptz,
    attempts bigint not null default 0
);
insert into export default values;
