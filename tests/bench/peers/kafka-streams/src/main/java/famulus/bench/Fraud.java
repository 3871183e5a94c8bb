package famulus.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The standard work on Kafka Streams: each user's last ten minutes, ten rules, alerts.  Set by BENCH_ variables of the environment. */
public final class Fraud {
    static final class Judge implements Processor<String, byte[], String, byte[]> {
        private final Work.History added = new Work.History();
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> history;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            history = context.getStateStore("history");
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                Work.Transaction tx = Work.parse(record.value());
                added.add(history.get(tx.user()), tx);
                history.put(tx.user(), added.kept);
                for (Work.Rule rule : Work.RULES) {
                    if (rule.when().fires(tx, added.inWindow)) {
                        context.forward(new Record<>(tx.user(), Work.alert(rule, tx), record.timestamp()));
                    }
                }
            } catch (IOException bad) {
                throw new UncheckedIOException(bad);
            }
        }
    }

    static Properties configuration(String store, boolean exactlyOnce) {
        Properties p = new Properties();
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, Work.variable("BENCH_BOOTSTRAP"));
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, Work.variable("BENCH_APP_ID"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, Work.variable("BENCH_STATE_DIR"));
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        p.put(
            StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
            exactlyOnce ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Integer.parseInt(Work.variable("BENCH_COMMIT_MS")));
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 8000);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 8000);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 1 << 20);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), Integer.parseInt(Work.variable("BENCH_LINGER_MS")));
        p.put(StreamsConfig.producerPrefix(ProducerConfig.MAX_REQUEST_SIZE_CONFIG), 4 << 20);
        return p;
    }

    static Topology topology(String store) {
        var supplier = store.equals("rocksdb")
            ? Stores.persistentKeyValueStore("history")
            : Stores.inMemoryKeyValueStore("history");
        Topology topology = new Topology();
        topology.addSource("transactions", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), Work.variable("BENCH_INPUT"));
        topology.addProcessor("judge", Judge::new, "transactions");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(supplier, Serdes.String(), Serdes.ByteArray()).withCachingEnabled(), "judge");
        topology.addSink("alerts", Work.variable("BENCH_ALERTS"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "judge");
        return topology;
    }

    public static void main(String[] args) {
        String store = Work.variable("BENCH_STORE");
        KafkaStreams streams =
            new KafkaStreams(topology(store), configuration(store, Work.variable("BENCH_GUARANTEE").equals("exactly_once")));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
