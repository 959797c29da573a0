#include "internal.h"

size_t words_for(size_t pages)
{
	return (pages + WORD_PAGES - 1) / WORD_PAGES;
}

bool has(const word *map, size_t page)
{
	return map[page / WORD_PAGES] >> page % WORD_PAGES & 1;
}

/* The bits of pages [first, end) in the word that holds first. */
static word mask_of(size_t first, size_t end)
{
	size_t low = first % WORD_PAGES;
	size_t count = end - first < WORD_PAGES - low ? end - first : WORD_PAGES - low;

	return (count == WORD_PAGES ? ~(word)0 : ((word)1 << count) - 1) << low;
}

static size_t next_word(size_t page)
{
	return (page / WORD_PAGES + 1) * WORD_PAGES;
}

void put(word *map, size_t first, size_t end, bool value)
{
	for (; first < end; first = next_word(first)) {
		word mask = mask_of(first, end);

		if (value)
			map[first / WORD_PAGES] |= mask;
		else
			map[first / WORD_PAGES] &= ~mask;
	}
}

size_t run_end(const word *map, size_t first, size_t end, bool value)
{
	for (; first < end; first = next_word(first)) {
		word other = map[first / WORD_PAGES];

		other = (value ? ~other : other) & mask_of(first, end);
		if (other)
			return first / WORD_PAGES * WORD_PAGES + (size_t)__builtin_ctzll(other);
	}
	return end;
}

size_t count_in(const word *map, size_t first, size_t end)
{
	size_t found = 0;

	for (; first < end; first = next_word(first))
		found += (size_t)__builtin_popcountll(map[first / WORD_PAGES] & mask_of(first, end));
	return found;
}
