/*
 * What a CPU does for ever: which page comes next, when, and what is done to it.
 *
 * The number of a write tells its page, so an observer who knows how many there were knows what each page must hold
 * (invariants.py does the same sums). What runs this may execute ring 0 code one instruction at a time, so in mode
 * touch a walk takes three instructions a page.
 */

#include "stress.h"

#define XOR_PATTERN     0x5aa5a55a3cc3c33cUL
#define MIX_1           0x9e3779b97f4a7c15UL
#define MIX_2           0xd6e8feb86659fd93UL
#define FILL_FACTOR     0x5851f42d4c957f2dUL    /* of a linear congruential generator (Knuth's MMIX) */
#define FILL_TERM       0x14057b7ef767814fUL
#define PAGES_PER_GIB   (1UL << 18)
#define MOST_AT_ONCE    (PAGES_PER_GIB / 16)

typedef volatile u64 *words;

static words words_of(u64 page)
{
    u64 address = progress->base + page * PAGE_BYTES;

    return (words)(address < progress->low_end ? address : address - progress->low_end + FOUR_GIB);
}

static u64 mixed(u64 x)
{
    x *= MIX_1;
    x ^= x >> 32;
    x *= MIX_2;
    return x ^ x >> 32;
}

/* Fill the first words of each page with what no compression makes smaller; the rest stays 0. */
static void prepare(const struct cpu_progress *cpu)
{
    for (u64 page = cpu->first_page; page < cpu->first_page + cpu->page_count; page++) {
        words word = words_of(page);
        u64 value = mixed(page + 1);

        for (u64 i = 1; i <= cpu->fill_words; i++) {
            value = value * FILL_FACTOR + FILL_TERM;
            word[i] = value;
        }
    }
}

/* Go over `count` pages from `page` on, which lie side by side; the count is a multiple of GROUP. */
static inline __attribute__((always_inline))
void go_over(struct cpu_progress *cpu, u64 page, u64 count, enum access access)
{
    words word = words_of(page), stop = word + count * WORDS_PER_PAGE;
    u64 stamp = cpu->last_stamp;

    for (; word != stop; word += GROUP * WORDS_PER_PAGE) {
#pragma GCC unroll 16
        for (u64 i = 0; i < GROUP; i++) {
            if (access == XOR)
                for (u64 other = 1; other < WORDS_PER_PAGE; other++)
                    word[i * WORDS_PER_PAGE + other] ^= XOR_PATTERN;
            stamp++;
            if (access == READ)
                (void)word[i * WORDS_PER_PAGE];
            else
                word[i * WORDS_PER_PAGE] = stamp;
            cpu->last_stamp = stamp;
        }
    }
}

/* Walk the window in which write number `done` lies, `most` pages at most; return how many. */
static u64 walk(struct cpu_progress *cpu, u64 done, u64 most)
{
    u64 low_pages = (progress->low_end - progress->base) / PAGE_BYTES;
    u64 offset = done % cpu->window;
    u64 place = (done / (cpu->window * cpu->rounds) * cpu->window + offset) % cpu->page_count;
    u64 page = cpu->first_page + place, count = cpu->window - offset;

    if (count > most)
        count = most;
    if (count > cpu->page_count - place)
        count = cpu->page_count - place;
    if (page < low_pages && page + count > low_pages)
        count = low_pages - page;
    switch (cpu->access) {
    case XOR:
        go_over(cpu, page, count, XOR);
        break;
    case READ:
        go_over(cpu, page, count, READ);
        break;
    default:
        go_over(cpu, page, count, TOUCH);
    }
    return count;
}

/* Write `count` pages at random. */
static u64 scatter(struct cpu_progress *cpu, u64 count)
{
    u64 hot = cpu->order == HOT_SPOT ? cpu->window : 0, share = cpu->order == HOT_SPOT ? cpu->hot_share : 0;
    u64 cold = cpu->page_count - hot, stamp = cpu->last_stamp;

    for (u64 i = 0; i < count; i++) {
        u64 chance = mixed(++stamp), high = chance >> 32;
        u64 place = (chance & (WHOLE_SHARE - 1)) < share ? high * hot >> 32 : hot + (high * cold >> 32);

        *words_of(cpu->first_page + place) = stamp;
        cpu->last_stamp = stamp;
    }
    return count;
}

/* Return how many pages there are to do now: what has come up to now and is not done, or as many as you like. */
static u64 waiting(const struct pace *pace, u64 began, u64 done)
{
    u64 come;

    if (!pace->ticks)
        return MOST_AT_ONCE;
    come = (tsc() - began) / pace->ticks * pace->pages;
    if (come <= done)
        return 0;
    return come - done < MOST_AT_ONCE ? come - done : MOST_AT_ONCE;
}

void work(u32 number_of_cpu)
{
    struct cpu_progress *cpu = &progress->cpus[number_of_cpu];
    u64 done = 0, unprinted = 0, since, began;

    if (!cpu->page_count)
        return;
    prepare(cpu);
    cpu->ready = 1;
    since = now_ms();
    began = tsc();
    for (;;) {
        u64 count = waiting(&paces[number_of_cpu], began, done) / GROUP * GROUP;

        if (!count) {
            pause();
            continue;
        }
        count = cpu->order == WALK ? walk(cpu, done, count) : scatter(cpu, count);
        done += count;
        unprinted += count;
        if (unprinted >= PAGES_PER_GIB) {
            u64 now = now_ms();

            print_gib(number_of_cpu, now, since);
            since = now;
            unprinted -= PAGES_PER_GIB;
        }
    }
}
