/*
 * The command line: words of the form name=value. Those before the first `vcpus=` tell what all CPUs do; from a
 * `vcpus=` on, they tell what the CPUs do that it names, up to the next one.
 */

#include "stress.h"

#define MAX_DIGITS      15
#define MAX_SHOWN       64UL

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

/* Return the value of an option among the words of a load, which end where the next load begins; 0 if it is not there. */
static const char *option(const char *words, const char *name)
{
    const char *value;

    for (; *words && !value_of(words, "vcpus="); words = next_word(words))
        if ((value = value_of(words, name)))
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

static int is_word(const char *word, u64 length, const char *other)
{
    return length_of(other) == length && value_of(word, other);
}

static int is_one_of(const char *word, const char *const *others, u64 count)
{
    for (u64 i = 0; i < count; i++)
        if (is_word(word, length_of(word), others[i]))
            return 1;
    return 0;
}

static const char *skip_digits(const char *text)
{
    while (*text >= '0' && *text <= '9')
        text++;
    return text;
}

/* Return whether a word is a list of numbers and ranges, such as 0,2-3. */
static int is_list(const char *word)
{
    for (;;) {
        const char *end = skip_digits(word);

        if (end == word || end - word > 3)
            return 0;
        if (*end == '-') {
            word = end + 1;
            end = skip_digits(word);
            if (end == word || end - word > 3)
                return 0;
        }
        if (*end != ',')
            return !*end || *end == ' ';
        word = end + 1;
    }
}

static int is_in(const char *list, u64 cpu)
{
    for (;; list++) {
        u64 first = number(list, 0), last = first;

        list = skip_digits(list);
        if (*list == '-') {
            last = number(++list, 0);
            list = skip_digits(list);
        }
        if (cpu >= first && cpu <= last)
            return 1;
        if (*list != ',')
            return 0;
    }
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static int is_understood(const char *word)
{
    static const char *const numbers[] = { "ramsize=", "cpus=", "epoch=", "working-set=", "rounds=", "pace=", "every=" };
    static const char *const percents[] = { "hot-share=", "fill=" };
    static const char *const modes[] = { "touch", "xor" };
    static const char *const patterns[] = { "sweep", "moving", "uniform", "hot-spot", "read" };
    const char *value;

    for (u64 i = 0; i < COUNT(numbers); i++)
        if ((value = value_of(word, numbers[i])))
            return is_number(value);
    for (u64 i = 0; i < COUNT(percents); i++)
        if ((value = value_of(word, percents[i])))
            return is_number(value) && number(value, 0) <= 100;
    if ((value = value_of(word, "vcpus=")))
        return is_list(value);
    if ((value = value_of(word, "mode=")))
        return is_one_of(value, modes, COUNT(modes));
    return (value = value_of(word, "pattern=")) && is_one_of(value, patterns, COUNT(patterns));
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
    print("'; there are ramsize mode pattern working-set rounds hot-share pace every fill vcpus cpus epoch\n");
    outb(DEBUG_EXIT, 1);
}

/* Return whether every word of the command line is understood; the first that is not is told, and ends the guest. */
int check_command_line(const char *line)
{
    for (; *line; line = next_word(line)) {
        if (length_of(line) && !is_understood(line)) {
            refuse(line);
            return 0;
        }
    }
    return 1;
}

u64 global_option(const char *line, const char *name)
{
    const char *value;

    for (; *line; line = next_word(line))
        if ((value = value_of(line, name)))
            return number(value, 0);
    return 0;
}

/* Return the words of the load that a CPU belongs to. */
static const char *words_of_load(const char *line, u64 cpu)
{
    const char *found = line, *list;

    for (; *line; line = next_word(line))
        if ((list = value_of(line, "vcpus=")) && is_in(list, cpu))
            found = next_word(line);
    return found;
}

static int is(const char *value, const char *word)
{
    return value && is_word(value, length_of(value), word);
}

struct load load_of(const char *line, u64 cpu)
{
    const char *words = words_of_load(line, cpu), *pattern = option(words, "pattern=");
    u64 fill = number(option(words, "fill="), 0);
    struct load load = {
        .page_count = number(option(words, "ramsize="), 0) * PAGES_PER_MIB,
        .window = number(option(words, "working-set="), 0) * PAGES_PER_MIB,
        .rounds = number(option(words, "rounds="), 1),
        .order = is(pattern, "uniform") ? UNIFORM : is(pattern, "hot-spot") ? HOT_SPOT : WALK,
        .access = is(pattern, "read") ? READ : is(option(words, "mode="), "xor") ? XOR : TOUCH,
        .hot_share = number(option(words, "hot-share="), 75) * WHOLE_SHARE / 100,
        .fill_words = fill * (WORDS_PER_PAGE - 1) / 100,
        .pace = number(option(words, "pace="), 0),
        .every_ms = number(option(words, "every="), 0),
    };

    if (!load.rounds)
        load.rounds = 1;
    /* Memory that is not written all the time has content of its own, as that of guests has. */
    if (!load.fill_words && (load.pace || (pattern && !is(pattern, "sweep"))))
        load.fill_words = 1;
    return load;
}

u64 cpus_of_load(const char *line, u64 cpu, u64 cpu_count, u64 *place)
{
    const char *words = words_of_load(line, cpu);
    u64 count = 0;

    for (u64 other = 0; other < cpu_count; other++) {
        if (other == cpu)
            *place = count;
        count += words_of_load(line, other) == words;
    }
    return count;
}
