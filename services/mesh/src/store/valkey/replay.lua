-- Values kept beside a service's state, and the rebuild of that state.

-- Writes a value if it still is what the caller last saw (`''`: there was none).
function serves.swap(name, seen, new)
  if (call('GET', own(name)) or '') ~= seen then
    return { 0 }
  end
  call('SET', own(name), new)
  return { 1 }
end

-- Declares the store complete: at the first start, or after a rebuild.
function serves.seal()
  call('SET', own('whole'), whole(ctx.now))
  return {}
end

-- A shadow is a generation that is being built from stored events, next to the live one.
-- `generations` names all that were ever begun and may still have keys. The builder is fenced by
-- the shadow's name, which is never used again, and by a lease (`SHADOW_MILLIS`, defined above this
-- file): a builder that was paused for longer, or whose store was emptied, finds that its shadow is
-- gone.
local function builds(generation)
  if call('GET', own('shadow')) ~= generation then
    return false
  end
  call('PEXPIRE', own('shadow'), SHADOW_MILLIS)
  return true
end

function serves.begin_shadow(generation)
  if not call('SET', own('shadow'), generation, 'NX', 'PX', SHADOW_MILLIS) then
    return { 0 }
  end
  call('SADD', own('generations'), generation)
  return { 1 }
end

-- A store without generations is rebuilt in place, under the same lease.
function serves.begin_restoring(token)
  if call('EXISTS', own('whole')) == 1 then
    return { 0 }
  end
  return { call('SET', own('shadow'), token, 'NX', 'PX', SHADOW_MILLIS) and 1 or 0 }
end

-- Marks the store as incomplete: it answers no call until it is rebuilt. A rebuild that is
-- running has to begin again.
function serves.unseal()
  call('DEL', own('whole'), own('shadow'))
  return {}
end

-- Renews the lease of a builder that has nothing to write; returns whether it still has it.
function serves.renew_shadow(generation)
  return { builds(generation) and 1 or 0 }
end

function serves.give_up_shadow(generation)
  if call('GET', own('shadow')) == generation then
    call('DEL', own('shadow'))
  end
  return {}
end

-- Makes the shadow the live generation: from the next call on, all read and write it.
function serves.swap_in_shadow(generation)
  if not builds(generation) then
    return { 0 }
  end
  call('SET', own('whole'), generation)
  call('DEL', own('shadow'))
  return { 1 }
end

-- The lines of `reads.digest` that only the live generation has, and those that only the shadow
-- has, of the entities whose ids end in `part`. Nothing can change between the two digests.
function serves.compare_shadow(generation, part)
  local live = call('GET', own('whole'))
  if not live or not builds(generation) then
    return { 'gone' }
  end
  stand_on(live)
  local before, is_before = reads.digest(part), {}
  stand_on(generation)
  local after, is_after = reads.digest(part), {}
  for _, line in ipairs(before) do
    is_before[line] = true
  end
  local gone, new = {}, {}
  for _, line in ipairs(after) do
    is_after[line] = true
    if not is_before[line] then
      new[#new + 1] = line
    end
  end
  for _, line in ipairs(before) do
    if not is_after[line] then
      gone[#gone + 1] = line
    end
  end
  return { 'held', gone, new }
end
