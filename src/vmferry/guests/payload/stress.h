/* What the parts of the stress payload share: the layout of its progress area, time, and the serial port. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define PROGRESS_AREA   0x10000UL
#define PROGRESS_MAGIC  0x7373657274736676UL    /* "vfstress" */
#define PROGRESS_VERSION 2
#define FOUR_GIB        (4UL << 30)
#define PAGE_BYTES      4096UL
#define WORDS_PER_PAGE  (PAGE_BYTES / 8)
#define PAGES_PER_MIB   256UL
#define GROUP           16UL                    /* shares and windows are multiples of so many pages */
#define MAX_CPUS        255
#define WHOLE_SHARE     65536U                  /* of hot_share: all writes */

#define SERIAL          0x3f8
#define SERIAL_STATUS   (SERIAL + 5)
#define SERIAL_EMPTY    0x20
#define DEBUG_EXIT      0xf4

enum order { WALK, UNIFORM, HOT_SPOT };
enum access { TOUCH, XOR, READ };

struct cpu_progress {
    u64 first_page;     /* number among all stressed pages */
    u64 page_count;
    volatile u64 last_stamp;    /* CPU number << 56 | pages written (or read) since the start */
    u32 order;          /* enum order: which page comes next */
    u32 access;         /* enum access: what is done to it */
    u64 window;         /* WALK: pages walked before the next window; HOT_SPOT: how many are hot */
    u64 rounds;         /* WALK: how often a window is walked */
    u32 hot_share;      /* HOT_SPOT: how many of WHOLE_SHARE writes go to the hot pages */
    u32 fill_words;     /* how many words of each page were filled before it began */
    volatile u32 ready; /* 1 from the first write (or read) on */
    u32 unused;
};

struct progress {
    u64 magic;
    u32 version, cpu_count;
    u64 page_count;     /* stressed pages of all CPUs */
    u64 base;           /* guest physical address of page 0 */
    u64 low_end;        /* end of RAM below 4 GiB; pages go on at 4 GiB */
    u64 unused[3];
    struct cpu_progress cpus[MAX_CPUS];
};

/* How fast a CPU's work comes; a work that always waits has no ticks. It is no business of observers. */
struct pace {
    u64 ticks;          /* of the TSC, between two pages, or two bursts of pages */
    u64 pages;          /* 1, or how many a burst has */
};

/* What a load asks of one of its CPUs. */
struct load {
    u64 page_count;     /* of all its CPUs */
    u64 window;
    u64 rounds;
    u32 order, access, hot_share, fill_words;
    u64 pace;           /* pages/s of all its CPUs; 0: as fast as they can */
    u64 every_ms;       /* how often the work comes; 0: evenly */
};

#define progress ((struct progress *)PROGRESS_AREA)

extern u64 tsc_per_ms;
extern struct pace paces[MAX_CPUS];

static inline void outb(u32 port, u8 value) { __asm__ volatile("outb %0, %w1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u32 port) { u8 v; __asm__ volatile("inb %w1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }
static inline u64 tsc(void) { u32 a, d; __asm__ volatile("rdtsc" : "=a"(a), "=d"(d)); return a | (u64)d << 32; }

/* stress.c */
u64 now_ms(void);
void print(const char *text);
void print_number(u64 value, u32 digits);
void print_gib(u32 cpu, u64 now, u64 since);

/* options.c */
u64 global_option(const char *line, const char *name);
int check_command_line(const char *line);
struct load load_of(const char *line, u64 cpu);
u64 cpus_of_load(const char *line, u64 cpu, u64 cpu_count, u64 *place);

/* work.c */
void work(u32 number_of_cpu);
