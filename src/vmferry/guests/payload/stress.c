/*
 * The stress payload: every CPU works on its share of memory for ever, as the command line says (docs/payload.md).
 *
 * It is guestperf's stress program as a guest of its own: no kernel, no devices but a serial port. By default every CPU
 * walks its share and writes the first word of each page. That word is a stamp: the CPU's number and how many pages it
 * has written, this one included. So an observer can check that memory is one consistent moment: each page must carry
 * the newest stamp that came to it. The progress area at PROGRESS_AREA tells how far each CPU has come. This file starts
 * the CPUs and shares out the memory.
 */

#include "stress.h"

#define TRAMPOLINE      0x8000UL
#define STRESS_BASE     (16UL << 20)
#define MAPPED_END      (64UL << 30)            /* GIB_MAPPED in boot.S */
#define KNOWN_CPUS_MS   10000UL                 /* patience with CPUs that were promised */
#define UNKNOWN_CPUS_MS 250UL                   /* and with those that may or may not be there */

#define PIT_CHANNEL_2   0x42
#define PIT_COMMAND     0x43
#define PIT_GATE        0x61
#define PIT_HZ          1193182UL
#define CALIBRATION_MS  20UL

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

extern u32 start_info;
extern volatile u32 cpus_started;
extern const u8 trampoline_start[], trampoline_end[];

static volatile u32 begin, serial_lock;
static u64 tsc_start, epoch_ms;
u64 tsc_per_ms;
struct pace paces[MAX_CPUS];

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

u64 now_ms(void) { return (tsc() - tsc_start) / tsc_per_ms; }

static void wait_ms(u64 ms)
{
    u64 end = tsc() + ms * tsc_per_ms;

    while (tsc() < end)
        pause();
}

/* Serial port */

void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(SERIAL_STATUS) & SERIAL_EMPTY))
            pause();
        outb(SERIAL, *text);
    }
}

void print_number(u64 value, u32 digits)
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

void print_gib(u32 cpu, u64 now, u64 since)
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

static u64 rounded(u64 pages) { return pages / GROUP * GROUP; }

/* Give a CPU its part of its load, with its pages from `first_page` on. */
static void assign(u32 number_of_cpu, const struct load *load, u64 cpus, u64 first_page)
{
    struct cpu_progress *cpu = &progress->cpus[number_of_cpu];
    struct pace *pace = &paces[number_of_cpu];
    u64 window = rounded(load->window / cpus);

    cpu->first_page = first_page;
    cpu->page_count = rounded(load->page_count / cpus);
    cpu->last_stamp = (u64)number_of_cpu << 56;
    cpu->order = load->order;
    cpu->access = load->access;
    cpu->window = window && window < cpu->page_count ? window : cpu->page_count;
    cpu->rounds = load->rounds;
    cpu->hot_share = cpu->window < cpu->page_count ? load->hot_share : WHOLE_SHARE;
    cpu->fill_words = load->fill_words;
    if (!load->pace)
        return;
    pace->ticks = load->every_ms ? tsc_per_ms * load->every_ms : tsc_per_ms * 1000 * cpus / load->pace;
    pace->pages = load->every_ms ? load->pace * load->every_ms / 1000 / cpus : 1;
}

/* End the guest; where nobody listens at the port, it stands still. */
static void give_up(void)
{
    print("\n");
    outb(DEBUG_EXIT, 1);
    for (;;)
        __asm__ volatile("hlt");
}

static void lay_out(const struct start_info *info, const char *line, u32 cpu_count)
{
    u64 next_page = 0;

    progress->cpu_count = cpu_count;
    progress->base = STRESS_BASE;
    progress->low_end = end_of_ram_at(info, STRESS_BASE);
    for (u32 i = 0; i < cpu_count; i++) {
        struct load load = load_of(line, i);
        u64 place = 0, cpus = cpus_of_load(line, i, cpu_count, &place);

        if (!place)
            progress->page_count += load.page_count;
        if (load.access == XOR && (load.order != WALK || load.window)) {
            print("stress (00001): ERROR: mode=xor goes with pattern=sweep only");
            give_up();
        }
        assign(i, &load, cpus, next_page);
        next_page += progress->cpus[i].page_count;
    }
    if (progress->page_count > max_pages(info)) {
        print("stress (00001): ERROR: ramsize exceeds the usable memory of ");
        print_number(max_pages(info) / PAGES_PER_MIB, 1);
        print(" MiB");
        give_up();
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
    epoch_ms = global_option(line, "epoch=");
    lay_out(info, line, start_cpus(global_option(line, "cpus=")));
    print("stress (00001): INFO: RAM ");
    print_number(progress->page_count / PAGES_PER_MIB, 1);
    print(" MiB across ");
    print_number(progress->cpu_count, 1);
    print(" CPUs\n");
    begin = 1;
    work(0);
}

void main_secondary(u32 cpu)
{
    while (!begin)
        pause();
    if (cpu < progress->cpu_count)
        work(cpu);
}
