/* The script is fixed logic around what the tables fill:
 *
 *   globals, globals_take   flags of every command; those of them that take a value
 *   _orderctl_commands      the words that may follow "" (families) or a family (its commands)
 *   _orderctl_describe      of a command: its flags, those that take a value, and "files" where its operands are files, or the words that the first one is one of
 *   _orderctl_choices       the words that a flag's value is one of, or "files"
 *
 * Names come from tables of ours, so they are plain words; nothing is quoted beyond that. */
#include "tools/completion.h"

#include "proto/base/bytes.h"

static bool is_file(const char *value) { return value && (strstr(value, "FILE") || strstr(value, "DIR")); }

/* "json|table": a value that is one of a few words is told as those words. Up to a blank: of operands it is the first. */
static bool is_choice(const char *value) {
    bool bar = false;
    for (const char *s = value; s && *s && *s != ' '; s++) {
        if (*s == '|') bar = true;
        else if (*s < 'a' || *s > 'z') return false;
    }
    return bar;
}

static void print_flags(FILE *out, const struct arg *flags, bool takers) {
    const char *space = "";
    for (const struct arg *a = flags; a && a->name; a++) {
        if (takers && a->kind == ARG_SWITCH) continue;
        fprintf(out, "%s%s%s%s", space, a->short_name ? a->short_name : "", a->short_name ? " " : "", a->name);
        space = " ";
    }
}

static void print_words(FILE *out, const char *choice) {
    for (const char *s = choice; *s && *s != ' '; s++) fputc(*s == '|' ? ' ' : *s, out);
}

static void print_choices(FILE *out, const char *command, const struct arg *flags) {
    for (const struct arg *a = flags; a && a->name; a++) {
        if (!is_file(a->value) && !is_choice(a->value)) continue;
        for (int i = 0; i < 2; i++) {
            const char *name = i ? a->name : a->short_name;
            if (!name) continue;
            fprintf(out, "        \"%s %s\") words=\"", command, name);
            if (is_file(a->value)) fputs("files", out);
            else print_words(out, a->value);
            fputs("\" ;;\n", out);
        }
    }
}

static void print_commands(FILE *out, const struct cli_command *const *families, size_t count) {
    fputs("    _orderctl_commands() { case \"$1\" in\n        \"\") words=\"", out);
    for (size_t f = 0; f < count; f++) fprintf(out, "%s%s", f ? " " : "", families[f]->family);
    fputs("\" ;;\n", out);
    for (size_t f = 0; f < count; f++) {
        if (!*families[f]->name) continue;
        fprintf(out, "        %s) words=\"", families[f]->family);
        for (const struct cli_command *c = families[f]; c->family; c++) fprintf(out, "%s%s", c == families[f] ? "" : " ", c->name);
        fputs("\" ;;\n", out);
    }
    fputs("    esac; }\n", out);
}

static void command_name(const struct cli_command *c, char *out, size_t cap) { snprintf(out, cap, "%s%s%s", c->family, *c->name ? " " : "", c->name); }

static void print_descriptions(FILE *out, const struct cli_command *const *families, size_t count) {
    char name[64];
    fputs("    _orderctl_describe() { case \"$1\" in\n", out);
    for (size_t f = 0; f < count; f++) {
        for (const struct cli_command *c = families[f]; c->family; c++) {
            command_name(c, name, sizeof(name));
            fprintf(out, "        \"%s\") flags=\"", name);
            print_flags(out, c->flags, false);
            fputs("\" takers=\"", out);
            print_flags(out, c->flags, true);
            fputs("\" operands=\"", out);
            if (is_file(c->operands)) fputs("files", out);
            else if (is_choice(c->operands)) print_words(out, c->operands);
            fputs("\" ;;\n", out);
        }
    }
    fputs("    esac; }\n    _orderctl_choices() { case \"$1 $2\" in\n", out);
    for (size_t f = 0; f < count; f++) {
        for (const struct cli_command *c = families[f]; c->family; c++) {
            command_name(c, name, sizeof(name));
            print_choices(out, name, c->flags);
        }
    }
}

/* What is left of the cursor decides: the command so far, and whether the word before is a flag that waits for its value. */
static const char script_logic[] =
    "    local cur=${COMP_WORDS[COMP_CWORD]} command=\"\" family=\"\" waits=\"\" word\n"
    "    local words=\"\" flags=\"\" takers=\"\" operands=\"\" i\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if [[ -n $waits ]]; then\n"
    "            [[ $word == \"=\" ]] || waits=\"\"\n"
    "        elif [[ $word == -* ]]; then\n"
    "            [[ \" $globals_take $takers \" == *\" $word \"* ]] && waits=$word\n"
    "        elif [[ -z $command ]]; then\n"
    "            words=\"\"\n"
    "            [[ -z $family ]] && _orderctl_commands \"$word\"\n"
    "            if [[ -n $words ]]; then family=$word; else command=\"${family:+$family }$word\"; _orderctl_describe \"$command\"; fi\n"
    "        elif [[ $operands != files ]]; then\n"
    "            operands=\"\"\n"
    "        fi\n"
    "    done\n"
    "    words=\"\"\n"
    "    if [[ -n $waits ]]; then\n"
    "        [[ $cur == \"=\" ]] && cur=\"\"\n"
    "        _orderctl_choices \"$command\" \"$waits\"\n"
    "        [[ -z $words ]] && _orderctl_choices \"\" \"$waits\"\n"
    "    elif [[ $cur == -* ]]; then\n"
    "        words=\"$flags $globals\"\n"
    "    elif [[ -z $command ]]; then\n"
    "        _orderctl_commands \"$family\"\n"
    "    else\n"
    "        words=$operands\n"
    "    fi\n"
    "    if [[ $words == files ]]; then\n"
    "        compopt -o filenames 2>/dev/null || true\n"
    "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "    else\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
    "    fi\n"
    "    unset -f _orderctl_commands _orderctl_describe _orderctl_choices\n"
    "}\n"
    "complete -F _orderctl orderctl\n";

void completion_print_bash(FILE *out, const struct cli_command *const *families, size_t count, const struct arg *global_flags) {
    fputs("# bash completion of orderctl, made by `orderctl completion bash`.\n_orderctl() {\n", out);
    fputs("    local globals=\"", out);
    print_flags(out, global_flags, false);
    fputs("\" globals_take=\"", out);
    print_flags(out, global_flags, true);
    fputs("\"\n", out);
    print_commands(out, families, count);
    print_descriptions(out, families, count);
    print_choices(out, "", global_flags);
    fputs("    esac; }\n", out);
    fputs(script_logic, out);
}
