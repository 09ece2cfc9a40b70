/*
 * The stress payload: every CPU walks its share of memory for ever and writes to every page of it.
 *
 * It is guestperf's stress program as a guest of its own: no kernel, no devices but a serial port.
 * Command line: ramsize=<MiB, all CPUs together> mode=touch|xor cpus=<number> epoch=<ms>, and nothing else
 *
 * touch writes the first word of each page, xor changes all the others, too. The first word is a stamp: the
 * CPU's number and how many pages it has written, this one included. So an observer can check that
 * memory is one consistent moment: each page must carry the newest stamp that its place in the walk
 * allows. The progress area at PROGRESS_AREA tells how far each CPU has come. See docs/payload.md.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define PROGRESS_AREA   0x10000UL
#define PROGRESS_MAGIC  0x7373657274736676UL    /* "vfstress" */
#define PROGRESS_VERSION 1
#define TRAMPOLINE      0x8000UL
#define STRESS_BASE     (16UL << 20)
#define FOUR_GIB        (4UL << 30)
#define MAPPED_END      (64UL << 30)            /* GIB_MAPPED in boot.S */
#define PAGE_BYTES      4096UL
#define WORDS_PER_PAGE  (PAGE_BYTES / 8)
#define PAGES_PER_GIB   (1UL << 18)
#define GROUP           16UL
#define XOR_PATTERN     0x5aa5a55a3cc3c33cUL
#define MAX_CPUS        255
#define MAX_DIGITS      15
#define MAX_SHOWN       64UL
#define KNOWN_CPUS_MS   10000UL                 /* patience with CPUs that were promised */
#define UNKNOWN_CPUS_MS 250UL                   /* and with those that may or may not be there */

#define SERIAL          0x3f8
#define SERIAL_STATUS   (SERIAL + 5)
#define SERIAL_EMPTY    0x20
#define PIT_CHANNEL_2   0x42
#define PIT_COMMAND     0x43
#define PIT_GATE        0x61
#define PIT_HZ          1193182UL
#define CALIBRATION_MS  20UL
#define DEBUG_EXIT      0xf4

#define LAPIC_SPURIOUS  ((volatile u32 *)0xfee000f0UL)
#define LAPIC_COMMAND   ((volatile u32 *)0xfee00300UL)
#define INIT_OTHERS     0x000c4500
#define START_OTHERS    (0x000c4600 | (TRAMPOLINE >> 12))

struct start_info {
    u32 magic, version, flags, module_count;
    u64 modules, command_line, rsdp, memory_map;
    u32 memory_map_entries, reserved;
};

struct memory_map_entry {
    u64 address, size;
    u32 type, reserved;
};

struct cpu_progress {
    u64 first_page;     /* number among all stressed pages */
    u64 page_count;
    volatile u64 last_stamp;    /* CPU number << 56 | pages written since the start */
    u64 unused[5];
};

struct progress {
    u64 magic;
    u32 version, cpu_count;
    u64 page_count;     /* stressed pages of all CPUs */
    u64 base;           /* guest physical address of page 0 */
    u64 low_end;        /* end of RAM below 4 GiB; pages go on at 4 GiB */
    u32 xor_mode, unused;
    u64 unused2[2];
    struct cpu_progress cpus[MAX_CPUS];
};

extern u32 start_info;
extern volatile u32 cpus_started;
extern const u8 trampoline_start[], trampoline_end[];

static struct progress *const progress = (struct progress *)PROGRESS_AREA;
static volatile u32 begin, serial_lock;
static u64 tsc_per_ms, tsc_start, epoch_ms;

static inline void outb(u32 port, u8 value) { __asm__ volatile("outb %0, %w1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u32 port) { u8 v; __asm__ volatile("inb %w1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }
static inline u64 tsc(void) { u32 a, d; __asm__ volatile("rdtsc" : "=a"(a), "=d"(d)); return a | (u64)d << 32; }

/* Time */

static void calibrate_tsc(void)
{
    u64 count = PIT_HZ * CALIBRATION_MS / 1000, start;

    outb(PIT_GATE, (inb(PIT_GATE) & ~2) | 1);
    outb(PIT_COMMAND, 0xb0);            /* channel 2, both bytes, one shot */
    outb(PIT_CHANNEL_2, count & 0xff);
    outb(PIT_CHANNEL_2, count >> 8);
    start = tsc();
    while (!(inb(PIT_GATE) & 0x20))
        pause();
    tsc_per_ms = (tsc() - start) / CALIBRATION_MS;
    tsc_start = start;
}

static u64 now_ms(void) { return (tsc() - tsc_start) / tsc_per_ms; }

static void wait_ms(u64 ms)
{
    u64 end = tsc() + ms * tsc_per_ms;

    while (tsc() < end)
        pause();
}

/* Serial port */

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(SERIAL_STATUS) & SERIAL_EMPTY))
            pause();
        outb(SERIAL, *text);
    }
}

static void print_number(u64 value, u32 digits)
{
    char text[21], *at = text + 20;

    *at = 0;
    do {
        *--at = '0' + value % 10;
        value /= 10;
    } while (value || at > text + 20 - digits);
    print(at);
}

static void lock_serial(void)
{
    while (__atomic_exchange_n(&serial_lock, 1, __ATOMIC_ACQUIRE))
        pause();
}

static void unlock_serial(void) { __atomic_store_n(&serial_lock, 0, __ATOMIC_RELEASE); }

static void print_gib(u32 cpu, u64 now, u64 since)
{
    lock_serial();
    print("stress (");
    print_number(cpu + 1, 5);
    print("): INFO: ");
    print_number(epoch_ms + now, 6);
    print("ms copied 1 GB in ");
    print_number(now - since, 5);
    print("ms\n");
    unlock_serial();
}

/* Command line */

/* Return what follows `name` if `word` begins with it, else 0. */
static const char *value_of(const char *word, const char *name)
{
    for (; *name; word++, name++)
        if (*word != *name)
            return 0;
    return word;
}

static u64 length_of(const char *word)
{
    u64 length = 0;

    while (word[length] && word[length] != ' ')
        length++;
    return length;
}

static const char *next_word(const char *line)
{
    line += length_of(line);
    while (*line == ' ')
        line++;
    return line;
}

static const char *option(const char *line, const char *name)
{
    const char *value;

    for (; *line; line = next_word(line))
        if ((value = value_of(line, name)))
            return value;
    return 0;
}

static u64 number(const char *text, u64 otherwise)
{
    u64 value = 0;

    if (!text || *text < '0' || *text > '9')
        return otherwise;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    return value;
}

static int is_number(const char *word)
{
    u64 length = length_of(word);

    for (u64 i = 0; i < length; i++)
        if (word[i] < '0' || word[i] > '9')
            return 0;
    return length >= 1 && length <= MAX_DIGITS;
}

static int is_understood(const char *word)
{
    static const char *const numbers[] = { "ramsize=", "cpus=", "epoch=" };
    const char *mode = value_of(word, "mode="), *value;

    for (u64 i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if ((value = value_of(word, numbers[i])))
            return is_number(value);
    if (!mode)
        return 0;
    return length_of(mode) == 5 ? !!value_of(mode, "touch") : length_of(mode) == 3 && value_of(mode, "xor");
}

static void refuse(const char *word)
{
    char shown[MAX_SHOWN + 1];
    u64 length = length_of(word), i;

    for (i = 0; i < length && i < MAX_SHOWN; i++)
        shown[i] = word[i] > ' ' && word[i] <= '~' ? word[i] : '?';
    shown[i] = 0;
    print("stress (00001): ERROR: cannot understand '");
    print(shown);
    print("'; there are ramsize=MIB mode=touch|xor cpus=N epoch=MS\n");
    outb(DEBUG_EXIT, 1);
}

/* Return whether every word of the command line is understood; the first that is not is told, and ends the guest. */
static int check_command_line(const char *line)
{
    for (; *line; line = next_word(line)) {
        if (length_of(line) && !is_understood(line)) {
            refuse(line);
            return 0;
        }
    }
    return 1;
}

/* The work */

static u64 address_of(u64 page)
{
    u64 address = progress->base + page * PAGE_BYTES;

    return address < progress->low_end ? address : address - progress->low_end + FOUR_GIB;
}

/*
 * Write pages from `page` up to `end`, which lie side by side; both are multiples of GROUP. In touch mode this is
 * three instructions a page: what runs this may execute ring 0 code one instruction at a time.
 */
static inline __attribute__((always_inline))
void write_pages(struct cpu_progress *cpu, u64 page, u64 end, int xor_mode)
{
    volatile u64 *word = (volatile u64 *)address_of(page), *stop = word + (end - page) * WORDS_PER_PAGE;
    u64 stamp = cpu->last_stamp;

    for (; word != stop; word += GROUP * WORDS_PER_PAGE) {
#pragma GCC unroll 16
        for (u64 i = 0; i < GROUP; i++) {
            if (xor_mode)
                for (u64 other = 1; other < WORDS_PER_PAGE; other++)
                    word[i * WORDS_PER_PAGE + other] ^= XOR_PATTERN;
            word[i * WORDS_PER_PAGE] = ++stamp;
            cpu->last_stamp = stamp;
        }
    }
}

static void walk(u32 number_of_cpu)
{
    struct cpu_progress *cpu = &progress->cpus[number_of_cpu];
    u64 low_pages = (progress->low_end - progress->base) / PAGE_BYTES;
    u64 end = cpu->first_page + cpu->page_count;
    u64 page = cpu->first_page, unprinted = 0, since = now_ms();

    while (cpu->page_count) {
        u64 stop = page + PAGES_PER_GIB / 16;

        if (stop > end)
            stop = end;
        if (page < low_pages && stop > low_pages)
            stop = low_pages;
        if (progress->xor_mode)
            write_pages(cpu, page, stop, 1);
        else
            write_pages(cpu, page, stop, 0);
        unprinted += stop - page;
        page = stop == end ? cpu->first_page : stop;
        if (unprinted >= PAGES_PER_GIB) {
            u64 now = now_ms();
            print_gib(number_of_cpu, now, since);
            since = now;
            unprinted -= PAGES_PER_GIB;
        }
    }
}

/* Return how many CPUs there are, after all have started: `promised` ones, or if that is 0, those that turn up. */
static u32 start_cpus(u32 promised)
{
    u32 limit = promised && promised < MAX_CPUS ? promised : MAX_CPUS, seen = 1;
    u64 patience = promised ? KNOWN_CPUS_MS : UNKNOWN_CPUS_MS, end;
    u8 *to = (u8 *)TRAMPOLINE;

    if (limit == 1)
        return 1;
    for (const u8 *from = trampoline_start; from < trampoline_end; from++)
        *to++ = *from;
    *LAPIC_SPURIOUS = 0x1ff;
    *LAPIC_COMMAND = INIT_OTHERS;
    wait_ms(10);
    *LAPIC_COMMAND = START_OTHERS;
    wait_ms(1);
    *LAPIC_COMMAND = START_OTHERS;
    for (end = now_ms() + patience; seen < limit && now_ms() < end; pause()) {
        if (cpus_started != seen) {
            seen = cpus_started;
            end = now_ms() + patience;
        }
    }
    return seen < limit ? seen : limit;
}

/* Return the end of the RAM that begins at or below `address` and reaches beyond it; `address` if there is none. */
static u64 end_of_ram_at(const struct start_info *info, u64 address)
{
    const struct memory_map_entry *entry = (const struct memory_map_entry *)info->memory_map;

    for (u32 i = 0; i < info->memory_map_entries; i++, entry++)
        if (entry->type == 1 && entry->address <= address && entry->address + entry->size > address)
            return (entry->address + entry->size) & ~(GROUP * PAGE_BYTES - 1);
    return address;
}

static u64 max_pages(const struct start_info *info)
{
    u64 high_end = end_of_ram_at(info, FOUR_GIB);

    if (high_end > MAPPED_END)
        high_end = MAPPED_END;
    return (progress->low_end - STRESS_BASE + high_end - FOUR_GIB) / PAGE_BYTES;
}

static void lay_out(const struct start_info *info, const char *line, u32 cpu_count)
{
    const char *mode = option(line, "mode=");
    u64 share;

    progress->cpu_count = cpu_count;
    progress->page_count = number(option(line, "ramsize="), 0) * 256;
    progress->base = STRESS_BASE;
    progress->low_end = end_of_ram_at(info, STRESS_BASE);
    progress->xor_mode = mode && *mode == 'x';
    if (progress->page_count > max_pages(info)) {
        print("stress (00001): ERROR: ramsize exceeds the usable memory of ");
        print_number(max_pages(info) / 256, 1);
        print(" MiB\n");
        outb(DEBUG_EXIT, 1);
        progress->page_count = 0;
    }
    share = progress->page_count / cpu_count / GROUP * GROUP;
    for (u32 i = 0; i < cpu_count; i++) {
        progress->cpus[i].first_page = i * share;
        progress->cpus[i].page_count = share;
        progress->cpus[i].last_stamp = (u64)i << 56;
    }
    progress->version = PROGRESS_VERSION;
    __atomic_store_n(&progress->magic, PROGRESS_MAGIC, __ATOMIC_RELEASE);
}

void main_bsp(void)
{
    const struct start_info *info = (const struct start_info *)(u64)start_info;
    const char *line = info->command_line ? (const char *)info->command_line : "";

    if (!check_command_line(line))
        return;
    calibrate_tsc();
    epoch_ms = number(option(line, "epoch="), 0);
    lay_out(info, line, start_cpus(number(option(line, "cpus="), 0)));
    print("stress (00001): INFO: RAM ");
    print_number(progress->page_count / 256, 1);
    print(" MiB across ");
    print_number(progress->cpu_count, 1);
    print(" CPUs\n");
    begin = 1;
    walk(0);
}

void main_secondary(u32 cpu)
{
    while (!begin)
        pause();
    if (cpu < progress->cpu_count)
        walk(cpu);
}
