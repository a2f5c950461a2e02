/* `orderd recover`, which `orderctl recover` runs: the data directory of a node whose partitions have lost the majority of their voters for good is made to go on alone
 * (docs/CLUSTER.md, "A majority that is lost"). Offline: it takes the directory's lock. Without --unsafe it tells what there is, and what may be lost.
 *
 * NODE comes first, with a cluster id that nobody else has (identity.h): from then on no other node's word is taken, nor this one's by them. Then each core's log (engine/recover.h). Killed in
 * between, the node leads nothing or not all, and waits; it is run again. */
#ifndef SERVER_RECOVERY_H
#define SERVER_RECOVERY_H

/* argv[0] is "recover". The exit code: 0 done, 1 refused, 2 wrong usage; what was found is on stdout. */
int recovery_main(int argc, char *argv[]);

#endif
